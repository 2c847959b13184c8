import csv

import guests

with open("guests.csv", "w", newline="") as out:
    rows = csv.DictWriter(out, ["name", "said"])
    rows.writeheader()
    rows.writerows(reversed(guests.all()))
print(f"{len(guests.all())} guests")
