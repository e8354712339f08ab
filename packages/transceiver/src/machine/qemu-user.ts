/**
 * As whom QEMU runs. Never as root: a supervisor of root gives each machine a user of its own, which owns nothing on the
 * host, is in no group and shares no file with another machine. A supervisor of a person runs QEMU as the person.
 *
 * The number is computed, not allocated, so that two supervisors of root never agree on one by accident: it lies between the
 * ranges that systemd documents for containers and dynamic users and 2^31, with 2^27 values for the hash.
 */
import { createHash } from 'node:crypto';

export type QemuUser = { readonly uid: number; readonly gid: number };

const UID_FIRST = 1_900_000_000;
const UID_COUNT = 2 ** 27;

/** Undefined: as the caller. */
export function qemuUser(options: {
  readonly home: string;
  readonly machine: string;
  readonly callerUid?: number;
}): QemuUser | undefined {
  if ((options.callerUid ?? process.getuid?.()) !== 0) return undefined;
  const hash = createHash('sha256').update(`${options.home}\0${options.machine}`).digest().readUInt32BE(0);
  const uid = UID_FIRST + (hash % UID_COUNT);
  return { uid, gid: uid };
}
