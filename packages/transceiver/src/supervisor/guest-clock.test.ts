import { expect, test } from 'vitest';
import { GuestClock } from './guest-clock.js';

const NOW_MS = 1_800_000_000_000;

const setUp = () => {
  const agent = {
    isThere: true,
    fails: false,
    pings: 0,
    times: [] as (number | undefined)[],
    ping: (): Promise<boolean> => {
      agent.pings += 1;
      return Promise.resolve(agent.isThere);
    },
    setTime: (timeMs?: number): Promise<void> => {
      if (agent.fails) return Promise.reject(new Error('refused'));
      agent.times.push(timeMs);
      return Promise.resolve();
    },
  };
  const clock = new GuestClock({ agent, log: () => undefined, nowMs: () => NOW_MS, askAgainMs: 1 });
  return { agent, clock };
};

test('an agent that is there is told the time once', async () => {
  const { agent, clock } = setUp();
  clock.set();
  await expect.poll(() => agent.times).toEqual([NOW_MS]);
});

test('an agent that was not started yet, or failed, is asked until the clock is set', async () => {
  const { agent, clock } = setUp();
  agent.isThere = false;
  clock.set();
  await expect.poll(() => agent.pings).toBeGreaterThan(3);
  agent.fails = true;
  agent.isThere = true;
  await expect.poll(() => agent.pings).toBeGreaterThan(8);
  expect(agent.times).toEqual([]);
  agent.fails = false;
  await expect.poll(() => agent.times).toEqual([NOW_MS]);
});

test('two pauses one after the other set it once, and nothing is asked of a machine that is over', async () => {
  const { agent, clock } = setUp();
  agent.isThere = false;
  clock.set();
  clock.set();
  await expect.poll(() => agent.pings).toBeGreaterThan(3);
  agent.isThere = true;
  await expect.poll(() => agent.times).toEqual([NOW_MS]);
  agent.isThere = false;
  clock.set();
  clock.close();
  const { pings } = agent;
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(agent.pings).toBeLessThanOrEqual(pings + 1);
});
