/**
 * Counts attempts by key in windows of one minute, in bounded memory. A key that is over its limit is refused until its
 * window ends; when there are too many keys, the oldest windows are forgotten, which helps an attacker less than
 * refusing everybody would.
 */
import { isIPv6 } from 'node:net';
import { CollectiveError } from '@collective/shared';
import { type Clock } from './clock.js';

const WINDOW_SECONDS = 60;
const KEYS_MAX = 50_000;

export class RateLimiter {
  readonly #clock: Clock;
  readonly #windows = new Map<string, { startedAt: number; count: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Counts one attempt. Errors: `rate-limited` (data.seconds: when to try again). */
  count(key: string, perMinuteMax: number): void {
    const now = this.#clock.nowSeconds();
    const window = this.#windows.get(key);
    if (window === undefined || now - window.startedAt >= WINDOW_SECONDS || now < window.startedAt) {
      this.#windows.delete(key);
      this.#windows.set(key, { startedAt: now, count: 1 });
      this.#forgetOldest();
      return;
    }
    window.count += 1;
    if (window.count <= perMinuteMax) return;
    const seconds = window.startedAt + WINDOW_SECONDS - now;
    throw new CollectiveError('rate-limited', `Too many attempts; try again in ${seconds} s`, { data: { seconds } });
  }

  #forgetOldest(): void {
    for (const key of this.#windows.keys()) {
      if (this.#windows.size <= KEYS_MAX) return;
      this.#windows.delete(key);
    }
  }
}

/** What counts as one caller: an IPv4 address, or the /64 of an IPv6 one. */
export const addressKey = (address: string): string => {
  if (!isIPv6(address)) return address;
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  const [head = '', tail] = address.split('::');
  const left = head === '' ? [] : head.split(':');
  const right = tail === undefined || tail === '' ? [] : tail.split(':');
  const middle: string[] = tail === undefined ? [] : Array.from({ length: 8 - left.length - right.length }, () => '0');
  return [...left, ...middle, ...right]
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
};
