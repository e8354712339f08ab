import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { serveAgent, type AgentCalls } from './agent-server.js';
import { AGENT_PATHS } from './agent-types.js';

type Server = Awaited<ReturnType<typeof serveAgent>>;
let folder: string;
let server: Server;
let calls: unknown[];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'collective-agent-'));
  calls = [];
  const take = async (request: unknown): Promise<unknown> => calls.push(request);
  const fail = async (): Promise<never> => {
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  };
  const agent = { stop: take, console: take, prepareLogin: take, status: fail } as unknown as AgentCalls;
  server = await serveAgent(agent, join(folder, 'agent.sock'));
});
afterEach(async () => {
  await server.close();
  await rm(folder, { recursive: true, force: true });
});

describe('the local API', () => {
  it('is a socket for its owner alone', async () => {
    expect((await stat(join(folder, 'agent.sock'))).mode & 0o077).toBe(0);
  });

  it.each([
    ['an unknown field', { names: [], alll: true }],
    ['a number that is text', { names: [], all: 'true' }],
    ['one name that is no list', { names: 'tiny' }],
    ['no body', undefined],
  ])('refuses %s, and nothing is done', async (_what, body) => {
    const reply = await server.inject({
      method: 'POST',
      url: AGENT_PATHS.stop,
      ...(body === undefined ? {} : { payload: body }),
    });
    expect([reply.statusCode, reply.json<{ code: string }>().code]).toEqual([400, 'bad-request']);
    expect(calls).toEqual([]);
  });

  it('says that the local disk is full, whatever was written to it', async () => {
    const reply = await server.inject({ method: 'GET', url: AGENT_PATHS.status });
    expect([reply.statusCode, reply.json()]).toMatchObject([
      507,
      { code: 'disk-full', message: expect.stringMatching(/^The local disk is full: ENOSPC/), data: { local: true } },
    ]);
  });

  it('takes what fits', async () => {
    await server.inject({ method: 'POST', url: AGENT_PATHS.stop, payload: { names: ['tiny'], force: true } });
    await server.inject({ method: 'GET', url: `${AGENT_PATHS.console}?name=tiny` });
    expect(calls).toEqual([{ names: ['tiny'], force: true }, 'tiny']);
  });
});
