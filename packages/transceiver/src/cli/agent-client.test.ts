import { createServer, type Server } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { JobEvent } from '../agent/agent-types.js';
import { AgentClient } from './agent-client.js';

let folder: string;
let server: Server | undefined;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-client-'));
});
afterEach(async () => {
  server?.closeAllConnections();
  server?.close();
  await rm(folder, { recursive: true, force: true });
});

/** An agent that sends these lines and is killed. */
const dyingAgent = async (...events: JobEvent[]): Promise<AgentClient> => {
  const socketPath = join(folder, 'agent.sock');
  const dying = createServer((_request, response) => {
    response.writeHead(200);
    response.write(events.map((event) => `${JSON.stringify(event)}\n`).join('') || '{"half":');
    setImmediate(() => response.destroy());
  });
  server = dying;
  await new Promise<void>((resolve) => dying.listen(socketPath, resolve));
  return new AgentClient(socketPath);
};

describe('an agent that is killed while a command waits for it', () => {
  it('is an agent that ended, in the middle of which work, and no failure that nobody expected', async () => {
    const client = await dyingAgent({ event: 'progress', step: 'serving', text: 'Serving disk system.' });
    const seen: string[] = [];
    const job = client.job('/', {}, { onEvent: ({ event }) => seen.push(event) });
    await expect(job).rejects.toMatchObject({
      code: 'agent-unreachable',
      message: 'The agent ended while: Serving disk system.',
    });
    expect(seen).toEqual(['progress']);
  });

  it('is the same for a short answer that breaks off', async () => {
    const client = await dyingAgent();
    await expect(client.get('/')).rejects.toMatchObject({
      code: 'agent-unreachable',
      message: 'The agent ended before it had answered.',
    });
  });

  it('is an interruption when the person had pressed Ctrl-C', async () => {
    const client = await dyingAgent({ event: 'progress', step: 'start', text: 'Starting' });
    const controller = new AbortController();
    const interrupted = new Error('interrupted');
    const job = client.job('/', {}, { onEvent: () => controller.abort(interrupted), signal: controller.signal });
    await expect(job).rejects.toBe(interrupted);
  });
});
