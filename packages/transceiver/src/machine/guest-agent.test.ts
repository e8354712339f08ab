import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { GuestAgent } from './guest-agent.js';
import { field } from './qmp-client.js';

type Answer = (command: string, words: unknown, channel: net.Socket) => void;

/** An agent behind a channel, as qemu-guest-agent behaves: it drops what precedes 0xFF and answers a delimited sync with 0xFF and the number. */
const fakeAgent = async (answer: Answer, leftovers = ''): Promise<string> => {
  const folder = await mkdtemp(path.join(os.tmpdir(), 'collective-agent-'));
  const server = net.createServer((channel) => {
    channel.on('error', () => undefined);
    if (leftovers !== '') channel.write(leftovers);
    let held = Buffer.alloc(0);
    channel.on('data', (data) => {
      held = Buffer.concat([held, typeof data === 'string' ? Buffer.from(data) : data]);
      const sentinel = held.lastIndexOf(0xff);
      if (sentinel !== -1) held = held.subarray(sentinel + 1);
      for (let end = held.indexOf(10); end !== -1; end = held.indexOf(10)) {
        const request: unknown = JSON.parse(held.subarray(0, end).toString());
        held = held.subarray(end + 1);
        const command = String(field(request, 'execute'));
        const words = field(request, 'arguments');
        if (command === 'guest-sync-delimited')
          channel.write(
            Buffer.concat([Buffer.of(0xff), Buffer.from(`${JSON.stringify({ return: field(words, 'id') })}\n`)]),
          );
        else answer(command, words, channel);
      }
    });
  });
  const socketPath = path.join(folder, 'agent.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  onTestFinished(async () => {
    server.close();
    await rm(folder, { recursive: true, force: true });
  });
  return socketPath;
};

const answerWith =
  (value: unknown): Answer =>
  (_, __, channel) =>
    void channel.write(`${JSON.stringify({ return: value })}\n`);

describe('guest agent client', () => {
  test('an answer is found behind what an earlier talk has left in the channel', async () => {
    const agent = new GuestAgent(await fakeAgent(answerWith({ version: '7.2' }), '{"return": 17}\n{"return": {"half'));
    expect(await agent.request('guest-info')).toEqual({ version: '7.2' });
  });

  test('a sync of somebody else is not taken for ours', async () => {
    const agent = new GuestAgent(await fakeAgent(answerWith({}), '\xff{"return": 4711}\n'));
    expect(await agent.ping()).toBe(true);
  });

  test('an agent that does not answer fails in time, and ping says so', async () => {
    const agent = new GuestAgent(await fakeAgent(() => undefined));
    await expect(agent.request('guest-info', {}, { timeoutMs: 30 })).rejects.toMatchObject({
      data: { timedOut: true },
    });
    expect(await agent.ping({ timeoutMs: 30 })).toBe(false);
    expect(await new GuestAgent('/nowhere/agent.sock').ping()).toBe(false);
  });

  test('a refusal is an error with its reason', async () => {
    const refuse: Answer = (_, __, channel) =>
      void channel.write('{"error": {"class": "GenericError", "desc": "frozen"}}\n');
    await expect(new GuestAgent(await fakeAgent(refuse)).freeze()).rejects.toThrow('frozen');
  });

  test('requests are sent one after the other', async () => {
    const order: string[] = [];
    let answerFirst: () => void = () => undefined;
    const firstAsked = new Promise<void>((resolve) => {
      answerFirst = resolve;
    });
    const agent = new GuestAgent(
      await fakeAgent((command, _, channel) => {
        order.push(command);
        if (command === 'a') void firstAsked.then(() => channel.write('{"return": 1}\n'));
        else channel.write('{"return": 2}\n');
      }),
    );
    const both = Promise.all([agent.request('a'), agent.request('b')]);
    answerFirst();
    expect(await both).toEqual([1, 2]);
    expect(order).toEqual(['a', 'b']);
  });

  test('the time is set in nanoseconds, exactly', async () => {
    let seen: unknown;
    const agent = new GuestAgent(
      await fakeAgent((_, words, channel) => {
        seen = words;
        channel.write('{"return": {}}\n');
      }),
    );
    await agent.setTime(1_795_170_424_609);
    expect(seen).toEqual({ time: 1_795_170_424_609_000_000 });
  });

  test('shutdown does not wait for an answer', async () => {
    const asked: string[] = [];
    const agent = new GuestAgent(await fakeAgent((command) => void asked.push(command)));
    await agent.shutdown();
    await agent.ping({ timeoutMs: 100 });
    expect(asked[0]).toBe('guest-shutdown');
  });
});
