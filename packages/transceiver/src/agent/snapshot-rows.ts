/**
 * The snapshots of a subscription as a person sees them. The head is the last one that was committed, by whichever device; what lies here may
 * still be over an older one.
 */
import type { SnapshotRow } from './data-types.js';

export function snapshotRows(
  rows: readonly Omit<SnapshotRow, 'isHead'>[],
  which: 'kept' | 'deleted',
): readonly SnapshotRow[] {
  // The head is never thinned, so it is among those that are kept.
  const head = which === 'kept' ? Math.max(...rows.map(({ number }) => number)) : undefined;
  return rows.map((row) => ({ ...row, isHead: row.number === head }));
}
