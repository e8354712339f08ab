/**
 * Finds the agent of a home, or starts one in the background: detached, so that it outlives the command, with its output
 * in HOME/log/agent.log. The new agent says over a pipe when it is ready, or why it cannot be.
 */
import { spawn } from 'node:child_process';
import { closeSync, openSync, renameSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';
import { CollectiveError, isErrorCode } from '@collective/shared/errors';
import { homeDirectory, openHome, type Home } from '../home.js';
import { AgentClient } from './agent-client.js';

const READY_TIMEOUT_MS = 30_000;
/** So long the one that holds the lock is waited for before the start is tried again. */
const OTHER_MS = 5_000;
export const LOG_BYTES_MAX = 4 * 1024 * 1024;
/** The pipe on which a background agent reports; the number is given in the environment. */
export const READY_FD = 3;

export type FoundAgent = { readonly client: AgentClient; readonly home: Home; readonly started: boolean };

/** Errors: those of opening the home and starting the agent. */
export async function findAgent(options: { readonly home?: string }): Promise<FoundAgent> {
  const home = await openHome(homeDirectory(options.home));
  const client = new AgentClient(home.agentSocket);
  if (await answers(home.agentSocket)) return { client, home, started: false };
  await startAgent(home);
  return { client, home, started: true };
}

/** The running agent, or undefined; starts nothing. */
export async function runningAgent(options: {
  readonly home?: string;
}): Promise<{ readonly client: AgentClient; readonly home: Home } | undefined> {
  const home = await openHome(homeDirectory(options.home));
  return (await answers(home.agentSocket)) ? { client: new AgentClient(home.agentSocket), home } : undefined;
}

async function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/**
 * Two commands at once start two agents; the one that comes second finds the home in use, and the first one answers, on a busy machine or
 * after it has cleared away what somebody left only in a while. Or the one that has the home is just ending: then it is free in a while.
 */
async function startAgent(home: Home): Promise<void> {
  const giveUpAt = performance.now() + READY_TIMEOUT_MS;
  for (;;) {
    const failure = await startOne(home);
    if (failure === undefined) return;
    if (failure.code !== 'in-use') throw failure;
    if (await answersSoon(home.agentSocket)) return;
    if (performance.now() > giveUpAt) throw failure;
  }
}

/** What kept it from starting. */
async function startOne(home: Home): Promise<CollectiveError | undefined> {
  boundLog(home.agentLog);
  const log = openSync(home.agentLog, 'a', 0o600);
  const program = fileURLToPath(new URL('../../bin/collective.js', import.meta.url));
  const child = spawn(process.execPath, [program, 'agent', '--home', home.directory], {
    detached: true,
    stdio: ['ignore', log, log, 'pipe'],
    env: { ...process.env, COLLECTIVE_READY_FD: String(READY_FD) },
  });
  closeSync(log);
  const ready = child.stdio[READY_FD];
  if (ready === null || ready === undefined || !('setEncoding' in ready))
    throw new CollectiveError('agent-unreachable', 'The agent could not be started.');
  let said = '';
  const failure = await new Promise<CollectiveError | undefined>((resolve) => {
    const timer = setTimeout(
      () =>
        resolve(new CollectiveError('agent-unreachable', `The agent was not ready within 30 s; see ${home.agentLog}.`)),
      READY_TIMEOUT_MS,
    );
    const settle = (result: CollectiveError | undefined): void => {
      clearTimeout(timer);
      resolve(result);
    };
    child.once('error', (error) =>
      settle(
        new CollectiveError('agent-unreachable', `The agent could not be started: ${error.message}`, { cause: error }),
      ),
    );
    ready.setEncoding('utf8');
    ready.on('data', (text: string) => (said += text));
    ready.once('close', () => settle(failureOf(said, home)));
  });
  child.unref();
  ready.destroy();
  return failure;
}

function failureOf(said: string, home: Home): CollectiveError | undefined {
  const line = said.trim();
  if (line === 'ready') return undefined;
  try {
    const value: unknown = JSON.parse(line);
    if (
      typeof value === 'object' &&
      value !== null &&
      'code' in value &&
      'message' in value &&
      typeof value.code === 'string' &&
      isErrorCode(value.code)
    ) {
      return new CollectiveError(value.code, String(value.message));
    }
  } catch {
    // It died before it could say why.
  }
  return new CollectiveError('agent-unreachable', `The agent ended while it started; see ${home.agentLog}.`);
}

/** The other agent holds the lock and is about to listen. */
async function answersSoon(socketPath: string): Promise<boolean> {
  const deadline = performance.now() + OTHER_MS;
  while (performance.now() < deadline) {
    if (await answers(socketPath)) return true;
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  return false;
}

/** One older log is kept. */
function boundLog(path: string): void {
  try {
    if (statSync(path).size > LOG_BYTES_MAX) renameSync(path, `${path}.1`);
  } catch {
    // There is none yet.
  }
}
