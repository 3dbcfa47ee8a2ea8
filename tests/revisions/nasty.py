# a comment
"""Title.

Version: 001
"""
from __future__ import annotations
import sys
x: dict[str, list[int]] = {}
if (n := len(x)) > 3:
    y = f"{n!r:>{n + 1}} {x['a'] if x else 'b'} {{literal}} {n = } " f"""{f'{n}{f"{n:x}"!s}'}""" \
        "implicit" f"{n:}" rf"\d{n:%Y\-%m}" f'' f"{'nested' 'strings'}" "é\u00e9\N{BULLET}𱍐" u"\ud800"
elif n:
	y = 0XFF + 1_000 + 1E5 + 1j + .1 + 1e400
	z = b"\x00\xff" B'more', ..., None, True
match x:
    case {"a": [1, *rest], **others} if rest: pass
    case str() | int(real=0) as w: pass
    case _: ...
def f(a, /, b: int = 1, *c, d=2, **e) -> "None":
    '''doc'''
    async def g(): return [i async for i in e if await i]
    return lambda *a, k=1: (yield)
class K(object, metaclass=type): x: int; y: (str) = "1"
a·b = ﬁ = 0xffffffffffffffffffffffffffffffff
try: pass
except* ValueError as e: raise e from None
with (open("a") as p, open("b") as q): del p, (q)
s = """multi
line	tab""" + '\f\
cont'
print(x[1:2, ::3], not x, x is not y, -x ** 2, f"{x:{'>'}{10}}", f"{x!a}", f"{(lambda: 1)()}", f"{x,}", f"{{}}{x}{{", f"a" "b", "a" f"b", f"""
{
x
}""")
q = 1; w = 2
