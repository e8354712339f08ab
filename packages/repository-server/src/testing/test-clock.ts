/** A clock that stands still until a test moves it. */
import { type Clock } from '../clock.js';

export class TestClock implements Clock {
  #seconds: number;

  constructor(seconds = 1_800_000_000) {
    this.#seconds = seconds;
  }

  nowSeconds(): number {
    return this.#seconds;
  }

  advance(seconds: number): void {
    this.#seconds += seconds;
  }
}
