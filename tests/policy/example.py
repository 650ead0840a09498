"""Policies that together say everything a policy can say."""

import shutil
from pathlib import Path

from steerkit.policy import read_direction
from tests.directions import drawn, file_of

GOOD = """\
steerkit: 1
name: payments
description: what it is for
model: tiny
features:
  urge: {layer: 2, index: 417, label: about to move money}
  order: {layer: 1, index: 90}
probes:
  risk: {bias: -2.1, weights: {urge: 1.4, order: 0.8}}
steer:
  - name: damp
    when: {probe: risk, above: 0.5}
    where: reply.start
    edit: {urge: {clamp: 0}}
  - name: boost
    when: {feature: order, above: 0.5 max, below: 2 max}
    where: reply
    edit: {order: {scale: 2, shift: 1 std, cap: 3 max, floor: 0}}
  - name: calm
    when: retry
    where: call.arguments.amount
    edit: {urge: {ablate: true}}
    priority: 2
  - name: after-orders
    when:
      all: [{feature: order, above: 3 std, off_below: 1 std}, {not: {probe: risk, below: -1, mean_over: 4}}]
      at: tool_result
    for: turn
    where: call.name
    edit: {urge: {clamp: 1}}
    priority: 1
guard:
  default: allow
  rules:
    - {name: schema, tool: "*", then: deny, when: invalid_arguments}
    - name: large
      tool: transfer_money
      arguments: {properties: {amount: {exclusiveMinimum: 100}}}
      then: hold
      reason: payments over 100 need a person
    - {name: seen, when: {feature: order, above: 3 std, at: prompt}, then: deny}
    - name: again
      when: {any: [{feature: urge, above: 2 max, at: call.open}, {probe: risk, above: 3, mean_over: 2}], at: user}
      then: retry
      with: calm
      attempts: 2
    - name: send
      tool: send_email
      after: {tool: read_file, result: {required: [text]}}
      without: {tool: ask_person, arguments: {}}
      then: deny
      tripwire: true
trace: {watch: [urge, risk], top_k: 16, at: call}
mode: shadow
write_back: reconstruction
"""

AWAY = file_of(drawn(8, "attn_out.1", "attn_out.2"))
COPY = Path(shutil.copy(AWAY, AWAY.with_name("copy.safetensors")))
DIRECTED = GOOD.replace(
    "probes:\n",
    f"directions:\n  away: {{file: {AWAY}, label: to a refusal, sites: [attn_out.1], random: 1, "
    f"fingerprint: {read_direction(AWAY).fingerprint}}}\nprobes:\n",
).replace("edit: {urge: {clamp: 0}}", "edit: {urge: {clamp: 0}, away: {add: 0.5}}")
"""With a direction, whose file lies in a folder of its own."""
