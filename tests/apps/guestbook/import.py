import csv

import guests

with open("incoming/guests.csv", newline="") as file:
    for row in csv.DictReader(file):
        guests.add(row["name"], row["said"])
        print(row["name"])
