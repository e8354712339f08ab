import { expect, test } from 'vitest';
import { AgentKeeper } from './agent-keeper.js';

const signal = () => {
  let resolve: () => void = () => undefined;
  const promise = new Promise<void>((done) => (resolve = done));
  return { promise, resolve: () => resolve() };
};

const keeperOf = (onStart: (keeper: AgentKeeper, starts: number) => void, hasMachines = () => true) => {
  const starts: number[] = [];
  const ended = signal();
  const keeper: AgentKeeper = new AgentKeeper({
    startAgent: () => {
      starts.push(starts.length + 1);
      onStart(keeper, starts.length);
      return Promise.resolve();
    },
    hasMachines: () => {
      if (!hasMachines()) ended.resolve();
      return hasMachines();
    },
    log: () => undefined,
    waitsMs: [1],
  });
  return { keeper, starts, ended: ended.promise };
};

test('an agent that dies is started again until one is there', async () => {
  const there = signal();
  const { keeper, starts } = keeperOf((self, count) => {
    if (count < 3) return;
    self.arrived({ next: true });
    there.resolve();
  });
  const first = {};
  keeper.arrived(first);
  keeper.disconnected(first);
  await there.promise;
  await expect.poll(() => keeper.isStarting).toBe(false);
  expect(starts).toEqual([1, 2, 3]);
});

test('an agent that takes leave, or has a follower, is not started again; nor is one without machines', async () => {
  let hasMachines = true;
  const { keeper, starts, ended } = keeperOf(
    () => undefined,
    () => hasMachines,
  );
  const [first, second] = [{ first: true }, { second: true }];
  keeper.arrived(first);
  keeper.arrived(second);
  keeper.disconnected(first);
  keeper.takesLeave(second);
  keeper.disconnected(second);
  hasMachines = false;
  const third = {};
  keeper.arrived(third);
  keeper.disconnected(third);
  await ended;
  expect(starts).toEqual([]);
});
