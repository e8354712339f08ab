/**
 * Log files that do not grow: when one has passed its limit, its last half is kept and it is cut. Every writer has it open for
 * appending, so cutting it under them is safe.
 */
import { open } from 'node:fs/promises';

export const LOG_BYTES_MAX = 1 << 20;

/** One line with the time, to standard error, which is the log file of a detached process. */
export const logLine = (text: string): void => {
  process.stderr.write(`${new Date().toISOString()} ${text}\n`);
};

/** Cuts the file when it has more than `bytesMax`. A file that is not there is fine. */
export async function trimLog(path: string, bytesMax = LOG_BYTES_MAX): Promise<void> {
  const file = await open(path, 'r+').catch(() => undefined);
  if (file === undefined) return;
  try {
    const { size } = await file.stat();
    if (size <= bytesMax) return;
    const kept = Buffer.alloc(bytesMax >> 1);
    const { bytesRead } = await file.read(kept, 0, kept.length, size - kept.length);
    await file.truncate(0);
    const lineEnd = kept.indexOf(0x0a);
    await file.write(kept.subarray(lineEnd + 1, bytesRead), 0, undefined, 0);
  } finally {
    await file.close();
  }
}
