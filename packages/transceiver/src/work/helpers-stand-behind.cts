/**
 * Loaded before anything else of the block daemon (`node --require`). V8's helper threads compile functions that have become hot and mark
 * garbage: they stand behind the threads that serve guests (where Linux schedules sessions as one each, niceness counts only within this one).
 * Only now can they be told from the threads of libuv's pool, which do what guests wait for: those come with the first file that is opened
 * asynchronously. Never fails: without it everything is done all the same.
 */
import fs = require('node:fs');
import os = require('node:os');
import threads = require('node:worker_threads');

const NICENESS = os.constants.priority.PRIORITY_BELOW_NORMAL;

if (threads.isMainThread) {
  try {
    for (const id of fs.readdirSync('/proc/self/task').map(Number))
      if (id !== process.pid && os.getPriority(id) < NICENESS) os.setPriority(id, NICENESS);
  } catch {
    // Not to be had here.
  }
}
