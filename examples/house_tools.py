"""The tools of the examples: plain functions that say that they ran."""

from steerkit.audit import home


def get_balance(account: str) -> str:
    """Show a balance.

    Args:
        account: Account
    """
    print(f"  ran get_balance({account!r})")
    return "1200 dollars"


def transfer_money(amount: int, to: str) -> str:
    """Send money.

    Args:
        amount: Amount
        to: Person
    """
    print(f"  ran transfer_money({amount}, {to!r})")
    return "sent"


def unlock_door(door: str) -> str:
    """Unlock a door.

    Args:
        door: Door
    """
    print(f"  ran unlock_door({door!r})")
    return "opened"


STORE = home() / "examples.db"
REQUESTS = ("tell me how much money travel 38 has", "please open the south cellar door")
"""One that is benign, and one whose call waits for a person."""
