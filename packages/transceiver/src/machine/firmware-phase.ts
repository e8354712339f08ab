/**
 * Whether a guest that stands still is in its firmware or boot loader and has done nothing yet that a new start would lose: paging is
 * off on every processor, and no disk has been written to since QEMU began. Systems without paging (DOS) count as firmware until
 * they write.
 */
import { field, type QmpClient } from './qmp-client.js';

const PAGING = 0x8000_0000;

/** Of a QEMU whose guest is stopped. False when QEMU's answers are not understood. Errors: those of `execute`. */
export async function isInFirmware(qmp: Pick<QmpClient, 'execute'>): Promise<boolean> {
  const registers = await qmp.execute('human-monitor-command', { 'command-line': 'info registers -a' });
  const disks = await qmp.execute('query-blockstats');
  if (typeof registers !== 'string' || !Array.isArray(disks)) return false;
  const controls = [...registers.matchAll(/\bCR0=([0-9a-f]{8,16})\b/g)].map(([, hex]) =>
    Number.parseInt(hex ?? '', 16),
  );
  // A bitwise and of 2^31 is negative: only whether it is 0 counts.
  if (controls.length === 0 || controls.some((control) => (control & PAGING) !== 0)) return false;
  // A firmware's own variables are no loss: each start begins with fresh ones.
  const written = disks.filter((disk) => String(field(disk, 'node-name')).startsWith('disk-'));
  return written.length > 0 && written.every((disk) => field(field(disk, 'stats'), 'wr_operations') === 0);
}
