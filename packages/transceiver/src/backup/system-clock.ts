/** The machine's own clock, for the backup. Its timers keep no process alive. */
import type { BackupClock } from './backup-types.js';

export const systemBackupClock: BackupClock = {
  nowSeconds: () => Math.floor(Date.now() / 1000),
  nowMs: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      signal.throwIfAborted();
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason as Error);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      }, ms);
      timer.unref();
      signal.addEventListener('abort', onAbort, { once: true });
    }),
};
