import { describe, expect, it } from 'vitest';
import { OfferedCodes } from './offered-code.js';

describe('an offered recovery code', () => {
  it('is the same until it is forgotten, or 15 minutes old, and another one for another purpose', () => {
    let nowMs = 0;
    const offers = new OfferedCodes(() => nowMs);
    const code = offers.offer('alice');
    expect(offers.offer('alice')).toBe(code);
    expect(offers.offer('bob')).not.toBe(code);
    nowMs = 15 * 60 * 1000;
    expect(() => offers.confirmed('alice', code.slice(-4))).toThrow('No recovery code');
    expect(offers.offer('alice')).not.toBe(code);
    offers.forget('bob');
    expect(() => offers.confirmed('bob', 'AAAA')).toThrow('No recovery code');
  });

  it('is confirmed by its last group alone, in any case, and not by less', () => {
    const offers = new OfferedCodes();
    const code = offers.offer('alice');
    const group = code.slice(-4);
    expect(offers.confirmed('alice', ` ${group.toLowerCase()} `)).toBe(code);
    expect(offers.confirmed('alice', code)).toBe(code);
    for (const wrong of ['', group.slice(1), code.slice(0, 4)]) {
      if (wrong === group) continue;
      expect(() => offers.confirmed('alice', wrong)).toThrow('not the last group');
    }
    expect(offers.confirmed('alice', group)).toBe(code);
  });

  it('is one of a few: the oldest give way', () => {
    const offers = new OfferedCodes();
    const first = offers.offer('0');
    for (let at = 1; at <= 16; at += 1) offers.offer(String(at));
    expect(offers.offer('0')).not.toBe(first);
  });
});
