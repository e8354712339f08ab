import { describe, expect, it } from 'vitest';
import type { Digest } from '@collective/shared';
import type { BackupState, PackedPending, Sealed, Writer } from './backup-file.js';
import { mergeSealed, sealedAgain, withEnd, withJoined, withoutPending, withPin, withSealed } from './pending-seals.js';

const writer = (version: number): Writer => ({ appliance: 'debian', version, manifest: String(version) as Digest });
const sealed = (layer: string, version = 1, more: Partial<Sealed> = {}): Sealed => ({
  ...{
    reason: 'periodic',
    createdAt: 5,
    layers: [{ disk: 'user', layer }],
    writtenBy: writer(version),
    mustPin: false,
  },
  ...more,
});
const EMPTY = {
  ...{ subscription: '5', head: null, pending: null, next: [], toPin: [] },
} as unknown as BackupState;
const head = { number: 3 } as BackupState['head'];
/** One after the other. */
const after = (...seals: readonly Sealed[]): BackupState => seals.reduce(withSealed, EMPTY);

describe('two seals that become one', () => {
  it('have the layers and the time of the later one, and the weightier reason', () => {
    const later = sealed('c', 1, { createdAt: 6 });
    expect(mergeSealed(sealed('a', 1, { reason: 'stop' }), later)).toEqual({ ...later, reason: 'stop' });
    expect(mergeSealed(sealed('a'), sealed('c', 1, { reason: 'request' })).reason).toBe('request');
  });

  it('have of each disk the upper layer: one may have come, or gone, between the two', () => {
    const two = [
      { disk: 'user', layer: 'a' },
      { disk: 'gone', layer: 'b' },
    ];
    const later = [
      { disk: 'new', layer: 'd' },
      { disk: 'user', layer: 'c' },
    ];
    expect(mergeSealed(sealed('', 1, { layers: two }), sealed('', 1, { layers: later })).layers).toEqual([
      { disk: 'user', layer: 'c' },
      { disk: 'gone', layer: 'b' },
      { disk: 'new', layer: 'd' },
    ]);
  });
});

describe('what waits', () => {
  it('is one snapshot for what one version wrote, and another for the next', () => {
    const state = after(sealed('a', 1), sealed('b', 1), sealed('c', 1), sealed('d', 2), sealed('e', 2), sealed('f', 1));
    expect(state.pending).toEqual({ kind: 'sealed', ...sealed('a') });
    expect(state.next).toEqual([sealed('c'), sealed('e', 2), sealed('f')]);
    const joined = withJoined(state);
    expect([joined.pending, joined.next]).toEqual([{ kind: 'sealed', ...sealed('c') }, [sealed('e', 2), sealed('f')]]);
    expect(withJoined(joined)).toBe(joined);
    const second = withoutPending(joined, new Set());
    expect([second.pending, second.next]).toEqual([{ kind: 'sealed', ...sealed('e', 2) }, [sealed('f')]]);
    expect(withoutPending(withoutPending(second, new Set()), new Set())).toMatchObject({ pending: null, next: [] });
  });

  it('takes nothing more in once its version has ended, also when the same one writes again', () => {
    const ended = withEnd(after(sealed('a')));
    expect(ended.pending).toMatchObject({ mustPin: true });
    const again = withJoined(withSealed(ended, sealed('b')));
    expect([again.pending?.layers, again.next]).toEqual([[{ disk: 'user', layer: 'a' }], [sealed('b')]]);
    const last = withEnd(withSealed(again, sealed('c', 2)));
    expect(last.next.map(({ mustPin }) => mustPin)).toEqual([false, true]);
    expect(withSealed(last, sealed('d', 2)).next.length).toBe(3);
  });

  it('is nothing: the head is to be pinned, once; without a head nothing is', () => {
    const ended = withEnd(withEnd({ ...EMPTY, head }));
    expect(ended.toPin).toEqual([{ subscription: '5', number: 3 }]);
    expect(withPin(ended, 4).toPin.length).toBe(2);
    expect(withEnd(EMPTY)).toBe(EMPTY);
    const committed = { ...EMPTY, head, pending: { kind: 'committed', ...sealed('a') } } as BackupState;
    expect(withEnd(committed).toPin).toEqual([{ subscription: '5', number: 3 }]);
  });

  it('of the disks that came to another state is gone with them', () => {
    const layers = [
      { disk: 'user', layer: 'b' },
      { disk: 'other', layer: 'c' },
    ];
    const state = after(sealed('a'), sealed('', 1, { layers }), sealed('d', 2));
    expect(withoutPending(state, new Set(['user']))).toMatchObject({
      pending: { kind: 'sealed', layers: [{ disk: 'other', layer: 'c' }] },
      next: [],
    });
  });

  it('is packed again with who wrote it; of an undo with what was here', () => {
    const packed = { kind: 'packed', ...sealed('a', 2, { mustPin: true }), number: 4 } as unknown as PackedPending;
    expect(sealedAgain(packed)).toEqual({ kind: 'sealed', ...sealed('a', 2, { mustPin: true }) });
    expect(sealedAgain({ ...packed, reason: 'undo' }).reason).toBe('request');
  });
});
