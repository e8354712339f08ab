/**
 * Loaded before anything else of the block daemon (`node --require`). V8's helper threads compile functions that have become hot and mark
 * garbage: they stand behind guests and the threads that serve them. Only now can they be told from the threads of libuv's pool, which do
 * what guests wait for: those come with the first file that is opened asynchronously. Never fails: without it everything is done all the same.
 */
import fs = require('node:fs');
import os = require('node:os');
import threads = require('node:worker_threads');

const NICENESS = os.constants.priority.PRIORITY_BELOW_NORMAL;

if (threads.isMainThread) {
  try {
    for (const name of fs.readdirSync('/proc/self/task'))
      if (Number(name) !== process.pid) os.setPriority(Number(name), NICENESS);
  } catch {
    // Not to be had here.
  }
}
