"""A loop that hands over: where a rule does not trust the small model, a larger one goes on from the same messages."""

import sys

from house_tools import STORE, get_balance, transfer_money

import steerkit

TOOLS = [get_balance, transfer_money]
small = steerkit.load("tiny", policy=sys.argv[1:] or "policies/handoff.yaml", audit=STORE)
large = steerkit.load("tiny", policy="policies/people.yaml", audit=STORE)  # the box stands in for a larger model

for said in ("tell me how much money travel 38 has", "I owe Lumes a payment of 740 dollars"):
    run = small.loop([{"role": "user", "content": said}], TOOLS)
    who = "small"
    if run.status == "handoff":  # nothing of that turn was run
        (verdict,) = (one for one in run.turns[-1].verdicts if one.decision == "handoff")
        print(f"  handed over by {verdict.rule}: {verdict.reason}")
        run, who = large.loop(run.messages, TOOLS), "large"
    print(f"{said} -> {who} model: {run.text} ({[(one.call.name, one.status) for one in run.executions]})")
