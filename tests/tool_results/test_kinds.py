"""Tool results are recognised by kind."""

from __future__ import annotations

import json

import pytest

from spec_rag.tool_results.kinds import kind_of

PYTHON = '''"""A module."""

import os
from typing import Any


@cache
def first(a: int,
          b: int = 3) -> int:
    # a comment
    total = a + b
    for i in range(10):
        total += i * a
    return total


class Tank:
    """Holds water."""

    size = 3

    def fill(self, litres: float) -> None:
        """Fill it."""
        self.litres = litres
        self.full = litres > self.size
        print("full" if self.full else "not full")

    @property
    def level(self) -> float:
        rest = self.size - self.litres
        share = rest / self.size
        return 1 - share


LIMIT = {"a": 1,
         "b": 2}

if __name__ == "__main__":
    print(first(1))
'''
GO = """package main

import "fmt"

func fill(tank *Tank, litres int) error {
	if litres < 0 {
		return fmt.Errorf("negative")
	}
	tank.litres = litres
	return nil
}

func drain(tank *Tank) {
	fmt.Println("drain")
	tank.litres = 0
	tank.empty = true
}
"""
JAVA = """package a.b;

public class Tank {
    private int litres;

    public void fill(int litres) {
        check(litres);
        this.litres = litres;
        log("filled");
    }

    public void drain() {
        this.litres = 0;
        log("drained");
        notifyAll();
    }
}
"""
DIFF = """diff --git a/tank.py b/tank.py
index 1..2 100644
--- a/tank.py
+++ b/tank.py
@@ -1,4 +1,5 @@ def fill():
 import os
--- a rule
+new line
 def fill():
     pass
@@ -20,3 +21,4 @@ def drain():
     a = 1
+    b = 2
     return a
"""
LOG = "\n".join(
    [f"2026-01-02 10:00:{i:02d} INFO  request {i} served" for i in range(30)]
    + ["2026-01-02 10:00:31 ERROR pump 7 does not answer: connection refused"]
    + ["2026-01-02 10:00:32 INFO  heartbeat"] * 40
    + [f"2026-01-02 10:01:{i:02d} DEBUG valve {i} is {'open' if i % 3 else 'closed'}" for i in range(30)]
)
GREP = "\n".join(f"src/tank/{name}.py:{i}:def {name}_{i}(self):" for name in ("fill", "drain") for i in range(3, 30))
PATHS = "\n".join(f"src/tank/part{i % 3}/file_{i}.py" for i in sorted(range(40), key=lambda i: i % 3))
LS = "total 48\n" + "\n".join(f"-rw-r--r-- 1 root root {i * 100:5} Jan  2 10:00 file_{i}.py" for i in range(20))
TREE = ".\n├── src\n│   ├── tank.py\n│   └── pump.py\n└── README.md\n\n1 directory, 3 files"
CSV = "name,litres,colour\n" + "\n".join(f'tank {i},{i * 100},"red, dark"' for i in range(40))
TABLE = "| name | litres |\n|---|---|\n" + "\n".join(f"| tank {i} | {i * 100} |" for i in range(40))
PS = "USER   PID  %CPU COMMAND\n" + "\n".join(f"root   {i:4} {i / 10:4} python" for i in range(20))
JSON = json.dumps({"count": 30, "items": [{"id": i, "name": f"tank {i}", "price": 1.5} for i in range(30)]}, indent=2)
JSON_LINES = "\n".join(json.dumps({"id": i, "text": f"Tank {i} is red."}) for i in range(30))
MARKDOWN = (
    "# Tanks\n\nTank 3 is red. It holds 300 litres.\n\n## Pumps\n\n```python\nprint(1)\n```\n\n"
    "Pumps are loud. They are old.\n"
)
HTML = "<!DOCTYPE html>\n<html><body>\n<p>Tank 3 is red.</p>\n<p>It holds water.</p>\n</body></html>"
PROSE = "Tank 3 is red. It holds 300 litres of water. The pump is old, and it is loud. Nobody likes it at night."
TEST_OUTPUT = "\n".join([f"tests/test_tank.py::test_{i} PASSED" for i in range(20)] + ["1 failed, 20 passed in 2.1s"])


def numbered(text: str, form: str = "{:6}\t{}") -> str:
    return "\n".join(form.format(i, line) for i, line in enumerate(text.split("\n"), 1))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("python", PYTHON),
        ("python", numbered(PYTHON)),
        ("python", numbered(PYTHON, "{:5}→{}")),
        ("code", PYTHON[40:400]),
        ("code", GO),
        ("code", JAVA),
        ("code", numbered(JAVA)),
        ("diff", DIFF),
        ("diff", "commit 1\nAuthor: A\n\n    Message\n\n" + DIFF),
        ("log", LOG),
        ("log", TEST_OUTPUT),
        ("search", GREP),
        ("search", GREP.replace(":def", "-def")),
        ("listing", PATHS),
        ("listing", LS),
        ("listing", TREE),
        ("table", CSV),
        ("table", CSV.replace('"red, dark"', "red").replace(",", "\t")),
        ("table", TABLE),
        ("table", PS),
        ("json", JSON),
        ("json", json.dumps(json.loads(JSON))),
        ("json lines", JSON_LINES),
        ("markdown", MARKDOWN),
        ("html", HTML),
        ("prose", PROSE),
        ("search", "src/tank.py:3: import pump"),
        ("prose", ""),
        ("prose", "{not json"),
    ],
)
def test_a_result_is_recognised_by_its_text(kind: str, text: str) -> None:
    assert kind_of(text) == kind


def test_the_tools_name_decides_in_doubt() -> None:
    names = "tank\npump\nvalve\nMakefile"
    assert kind_of(names, "list_directory") == "listing"
    assert kind_of(names, "web_search") != "listing"
