"""What is kept: rows of one table, which outlive the server."""

import sqlite3

PATH = "/workspace/guests.db"


def connect():
    line = sqlite3.connect(PATH)
    line.execute("CREATE TABLE IF NOT EXISTS guest (id INTEGER PRIMARY KEY, name TEXT NOT NULL, said TEXT NOT NULL)")
    return line


def add(name, said):
    with connect() as line:
        line.execute("INSERT INTO guest (name, said) VALUES (?, ?)", (name, said))


def all():
    with connect() as line:
        return [{"name": name, "said": said} for name, said in line.execute("SELECT name, said FROM guest ORDER BY id DESC")]
