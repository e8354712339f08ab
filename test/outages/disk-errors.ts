/** What a kernel writes when a disk did not answer it in time or answered with an error: none of it may be in a guest's log. */
import { expect } from 'vitest';

const DISK_ERROR =
  /I\/O error|blk_update_request|EXT4-fs (?:error|warning)|JBD2:.*(?:error|fail)|Remounting filesystem|ata\d+(?:\.\d+)?: (?:.*(?:exception|timeout|timed out|reset|failed|frozen|link is slow|lost interrupt)|hard|soft)|sd .*(?:timed out|timing out|aborting|FAILED)|virtio.*(?:timeout|timed out)|task \S+ blocked for more than|hung_task|rcu:.*stall|soft lockup|hard LOCKUP|watchdog: BUG/i;

/** `SATA link down` of an empty port and `hard resetting link` are told apart: the first is how every boot begins. */
export const diskErrors = (kernelLog: string): string[] =>
  kernelLog.split(/\r?\n/).filter((line) => DISK_ERROR.test(line) && !/SATA link down/.test(line));

/** The log has to be a whole kernel's log, or nothing in it would prove anything. */
export const expectNoDiskErrors = (kernelLog: string): void => {
  expect(kernelLog).toContain('Linux version');
  expect(diskErrors(kernelLog)).toEqual([]);
};
