import { describe, expect, it } from 'vitest';
import { SlowGate } from './slow-gate.js';

const gate = (): SlowGate => new SlowGate({ slowCallMs: 2, windowCalls: 10, closedMs: 100, closedMsMax: 300 });

describe('SlowGate', () => {
  it('one slow call among many leaves it open', () => {
    const slow = gate();
    for (let round = 0; round < 5; round += 1) {
      slow.record(0, 50);
      for (let call = 0; call < 10; call += 1) slow.record(50, 50.1);
    }
    expect(slow.isOpen(50)).toBe(true);
  });

  it('two slow calls close together close it for a while', () => {
    const slow = gate();
    slow.record(0, 20);
    slow.record(20, 40);
    expect(slow.isOpen(139)).toBe(false);
    expect(slow.isOpen(140)).toBe(true);
  });

  it('a slow call just after it opened closes it for longer, up to the maximum', () => {
    const slow = gate();
    slow.record(0, 20);
    slow.record(20, 40);
    slow.record(140, 160);
    expect(slow.isOpen(359)).toBe(false);
    slow.record(360, 400);
    expect(slow.isOpen(699)).toBe(false);
    expect(slow.isOpen(700)).toBe(true);
  });

  it('after a window without slow calls it trusts again', () => {
    const slow = gate();
    slow.record(0, 20);
    slow.record(20, 40);
    for (let call = 0; call < 10; call += 1) slow.record(140, 140.1);
    slow.record(150, 170);
    expect(slow.isOpen(170)).toBe(true);
    slow.record(170, 190);
    expect(slow.isOpen(289)).toBe(false);
    expect(slow.isOpen(290)).toBe(true);
  });
});
