/** The time of day, passed in so that tests decide it. */
export interface Clock {
  /** Whole seconds since 1970. */
  nowSeconds(): number;
}

export const systemClock: Clock = { nowSeconds: () => Math.floor(Date.now() / 1_000) };
