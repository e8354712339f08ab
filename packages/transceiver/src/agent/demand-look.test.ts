import { expect, it } from 'vitest';
import type { DiskStatus } from '../blockd/control/control-protocol.js';
import { DemandLook } from './demand-look.js';

const disk = (session: string, misses: number, waiting: readonly object[] = []): DiskStatus =>
  ({ session, disk: 'system', counters: { misses }, waiting }) as unknown as DiskStatus;
const lookAt = (states: readonly (readonly DiskStatus[] | undefined)[], pids: readonly number[] = []): DemandLook => {
  let at = 0;
  return new DemandLook(async () => {
    const disks = states[at];
    const pid = pids[at] ?? 1;
    at += 1;
    return disks === undefined ? undefined : { pid, disks };
  });
};
const WAITS = { blockIndex: 1, waitedMs: 5, isUnavailable: false };

it('a machine waits when a read of it does, or did since the last look', async () => {
  const look = lookAt([[disk('tiny', 7)], [disk('tiny', 7, [WAITS])], [disk('tiny', 9)], [disk('tiny', 9)]]);
  const seen = [];
  for (let turn = 0; turn < 4; turn += 1) seen.push(await look.isWaiting());
  expect(seen).toEqual([false, true, true, false]);
});

it('what was given up, or whose fetch has failed, needs no line; nor does the backup itself', async () => {
  const look = lookAt([
    [disk('tiny', 1, [{ ...WAITS, isUnavailable: true }]), disk('other', 1, [{ ...WAITS, reason: 'away' }])],
    [disk('tiny', 1), disk('other', 1), disk('backup@tiny', 5, [WAITS])],
  ]);
  expect([await look.isWaiting(), await look.isWaiting()]).toEqual([false, false]);
});

it('a block daemon that is away, or was started again, has nobody waiting for what was before', async () => {
  const look = lookAt([[disk('tiny', 1)], undefined, [disk('tiny', 3)]], [1, 1, 2]);
  const seen = [];
  for (let turn = 0; turn < 3; turn += 1) seen.push(await look.isWaiting());
  expect(seen).toEqual([false, false, false]);
});
