/** The priority of work that nobody waits for. */
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';

const NICENESS = os.constants.priority.PRIORITY_BELOW_NORMAL;

/**
 * This process, which leads a session of its own, stands behind guests and the block daemon; not behind everything: a guest may be busy for
 * hours. Where Linux schedules sessions as one each (autogroup), niceness counts only within them, and that of the session is a
 * file's. Never fails: without it the work is done all the same.
 */
export const standBehind = (): void => {
  try {
    os.setPriority(NICENESS);
    if (isSessionLeader()) writeFileSync('/proc/self/autogroup', String(NICENESS));
  } catch {
    // Not to be had here.
  }
};

const isSessionLeader = (): boolean => {
  const fields = readFileSync('/proc/self/stat', 'utf8')
    .replace(/^.*\) /, '')
    .split(' ');
  return Number(fields[3]) === process.pid;
};
