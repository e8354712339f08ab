/** Seeded randomness (xoshiro128**): the same seed gives the same history, on every machine. */
export class Random {
  readonly seed: number;
  readonly #state: Uint32Array;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = new Uint32Array(4);
    let mixed = seed >>> 0;
    for (let at = 0; at < 4; at += 1) {
      // splitmix32: neighbouring seeds give unrelated states.
      mixed = (mixed + 0x9e3779b9) >>> 0;
      let word = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad);
      word = Math.imul(word ^ (word >>> 15), 0x735a2d97);
      this.#state[at] = (word ^ (word >>> 15)) >>> 0;
    }
  }

  /** 32 random bits. */
  bits(): number {
    const [s0 = 0, s1 = 0, s2 = 0, s3 = 0] = this.#state;
    const times5 = Math.imul(s1, 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9) >>> 0;
    const t2 = s2 ^ s0;
    const t3 = s3 ^ s1;
    this.#state[1] = s1 ^ t2;
    this.#state[0] = s0 ^ t3;
    this.#state[2] = t2 ^ (s1 << 9);
    this.#state[3] = (t3 << 11) | (t3 >>> 21);
    return result;
  }

  /** A whole number from 0 to `below` - 1. */
  int(below: number): number {
    return Math.floor((this.bits() / 2 ** 32) * below);
  }

  /** A whole number from `from` to `to`, both included. */
  between(from: number, to: number): number {
    return from + this.int(to - from + 1);
  }

  chance(probability: number): boolean {
    return this.bits() / 2 ** 32 < probability;
  }

  pick<T>(list: readonly T[]): T {
    const item = list[this.int(list.length)];
    if (item === undefined) throw new RangeError('pick from an empty list');
    return item;
  }

  /** The list in a random order, as a new list. */
  shuffled<T>(list: readonly T[]): T[] {
    const out = [...list];
    for (let at = out.length - 1; at > 0; at -= 1) {
      const other = this.int(at + 1);
      const [a, b] = [out[at], out[other]];
      if (a !== undefined && b !== undefined) [out[at], out[other]] = [b, a];
    }
    return out;
  }

  bytes(length: number): Buffer {
    const out = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at += 1) out[at] = this.bits() & 0xff;
    return out;
  }

  /** An independent stream: what one part draws does not change what another part gets. */
  fork(): Random {
    return new Random(this.bits());
  }
}
