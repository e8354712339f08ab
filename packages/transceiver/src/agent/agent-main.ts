/**
 * The agent's process: takes the home's lock, opens what the agent needs, serves the local API, and ends on SIGTERM,
 * SIGINT or `collective shutdown`. Machines and block daemon are other processes and stay.
 */
import { writeSync, closeSync } from 'node:fs';
import { errorReply, serveAgent } from './agent-server.js';
import { Agent } from './agent.js';
import { takeHomeLock } from './home-lock.js';
import type { Home } from '../home.js';
import { removeLeftPerson } from './left-person.js';
import type { MachinePort } from './machine-port.js';
import { ObjectCache } from './object-cache.js';

/** Runs until it is told to end. Errors: `in-use` when the home has an agent; those of opening the home's files. */
export async function runAgent(home: Home, openMachines: (home: Home) => Promise<MachinePort>): Promise<void> {
  process.umask(0o077);
  const report = readyPipe();
  try {
    const lock = await takeHomeLock(home);
    if (await removeLeftPerson(home)) console.error('Somebody who was here only for now was removed.');
    const objects = await ObjectCache.open(home.objectsDirectory);
    const machines = await openMachines(home);
    let end: () => void = () => undefined;
    const ended = new Promise<void>((resolve) => (end = resolve));
    const agent = await Agent.open({
      ...{ home, objects, machines },
      onShutdown: () => end(),
    });
    const server = await serveAgent(agent, home.agentSocket);
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const) process.on(signal, end);
    report('ready');
    await ended;
    await server.close();
    await agent.close();
    await lock.release();
  } catch (error) {
    report(JSON.stringify(errorReply(error)));
    throw error;
  }
}

/** A background agent tells the command that started it how it went, once, over the pipe that it was given. */
function readyPipe(): (line: string) => void {
  const fd = Number(process.env['COLLECTIVE_READY_FD'] ?? NaN);
  delete process.env['COLLECTIVE_READY_FD'];
  let isOpen = Number.isInteger(fd) && fd > 2;
  return (line) => {
    if (!isOpen) return;
    isOpen = false;
    try {
      writeSync(fd, `${line}\n`);
      closeSync(fd);
    } catch {
      // The command has gone away; the agent stays.
    }
  };
}
