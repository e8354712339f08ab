/**
 * Client of qemu-guest-agent, which answers over a virtio-serial channel *inside* the guest: every answer is the guest's word
 * and nothing more. The channel has no connections: bytes of an earlier talk, or of an agent that was killed in
 * mid-answer, may still be in it. So each request begins with `guest-sync-delimited` and a random number, and everything
 * before the 0xFF byte and that number is thrown away.
 *
 * One request at a time (the agent answers in order); each opens the channel anew, so that a second talker (QEMU serves one
 * connection a socket) is never locked out for long.
 */
import { randomInt } from 'node:crypto';
import type { Socket } from 'node:net';
import { CollectiveError } from '@collective/shared';
import { field } from './qmp-client.js';
import { connectUnix } from './unix-socket.js';

const ANSWER_BYTES_MAX = 16 << 20;
const TIMEOUT_MS = 3_000;
/** The agent drops what came before this byte, an unfinished request of someone else included. */
const SENTINEL = Buffer.of(0xff);

export type GuestAgentOptions = { readonly timeoutMs?: number };

export class GuestAgent {
  readonly #path: string;
  #last: Promise<unknown> = Promise.resolve();

  /** `path`: the channel's socket. Nothing is opened yet. */
  constructor(path: string) {
    this.#path = path;
  }

  /** True when an agent answers in time. */
  async ping(options: GuestAgentOptions = {}): Promise<boolean> {
    return await this.request('guest-ping', {}, options).then(
      () => true,
      () => false,
    );
  }

  /** Sets the guest's clock; without `timeMs` from its own hardware clock. */
  async setTime(timeMs?: number): Promise<void> {
    // Nanoseconds go past 2^53, so the number is written by hand: a millisecond and six zeroes.
    await this.#enqueue(
      timeMs === undefined
        ? request('guest-set-time')
        : `{"execute":"guest-set-time","arguments":{"time":${Math.round(timeMs)}000000}}`,
      {},
    );
  }

  /** Freezes the guest's file systems: everything written is on the disks when it resolves with their number. */
  async freeze(options: GuestAgentOptions = {}): Promise<number> {
    return count(await this.request('guest-fsfreeze-freeze', {}, { timeoutMs: 30_000, ...options }));
  }

  async thaw(options: GuestAgentOptions = {}): Promise<number> {
    return count(await this.request('guest-fsfreeze-thaw', {}, { timeoutMs: 30_000, ...options }));
  }

  /** Asks the guest to shut down. The agent does not answer this one; resolved means sent to an agent that had just answered. */
  async shutdown(options: GuestAgentOptions = {}): Promise<void> {
    await this.#enqueue(request('guest-shutdown', { mode: 'powerdown' }), { ...options, noAnswer: true });
  }

  /** Any command. Errors: `local-io` when the agent refuses, does not answer in time (3 s) or answers nonsense. */
  async request(
    command: string,
    words: Readonly<Record<string, unknown>> = {},
    options: GuestAgentOptions = {},
  ): Promise<unknown> {
    return await this.#enqueue(request(command, words), options);
  }

  async #enqueue(line: string, options: GuestAgentOptions & { readonly noAnswer?: boolean }): Promise<unknown> {
    const turn = this.#last.then(() => talk(this.#path, line, options));
    this.#last = turn.catch(() => undefined);
    return await turn;
  }
}

const request = (execute: string, words: Readonly<Record<string, unknown>> = {}): string =>
  JSON.stringify({ execute, arguments: words });

const count = (value: unknown): number => (typeof value === 'number' ? value : 0);

async function talk(
  path: string,
  line: string,
  options: GuestAgentOptions & { readonly noAnswer?: boolean },
): Promise<unknown> {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  const socket = await connectUnix(path).catch((error: unknown) => {
    throw new CollectiveError('local-io', 'The channel of the guest agent cannot be reached', { cause: error });
  });
  const timer = setTimeout(
    () =>
      socket.destroy(
        new CollectiveError('local-io', `The guest agent did not answer within ${timeoutMs} ms`, {
          data: { timedOut: true },
        }),
      ),
    timeoutMs,
  );
  try {
    const answers = new AnswerReader(socket);
    const token = randomInt(1, 2 ** 47);
    socket.write(SENTINEL);
    socket.write(`${request('guest-sync-delimited', { id: token })}\n`);
    await answers.sync(token);
    socket.write(`${line}\n`);
    if (options.noAnswer === true) {
      await new Promise<void>((resolve, reject) =>
        socket.write('', (error) => (error === null || error === undefined ? resolve() : reject(error))),
      );
      return undefined;
    }
    const answer = await answers.next();
    const failure = field(answer, 'error');
    if (failure !== undefined)
      throw new CollectiveError('local-io', `The guest agent refused: ${String(field(failure, 'desc'))}`);
    return field(answer, 'return');
  } finally {
    clearTimeout(timer);
    socket.destroy();
  }
}

/** Lines of the channel, after the last sentinel. */
class AnswerReader {
  readonly #socket: Socket;
  readonly #iterator: AsyncIterator<Buffer>;
  #held: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#socket = socket;
    this.#iterator = socket[Symbol.asyncIterator]();
  }

  async sync(token: number): Promise<void> {
    for (;;) {
      const at = this.#held.indexOf(SENTINEL);
      if (at !== -1) {
        this.#held = this.#held.subarray(at + 1);
        if (field(parse(await this.#line()), 'return') === token) return;
      } else {
        this.#held = Buffer.alloc(0); // no sentinel yet: leftovers of others
        await this.#more();
      }
    }
  }

  async next(): Promise<unknown> {
    const value = parse(await this.#line());
    if (value === undefined)
      throw new CollectiveError('local-io', 'The guest agent answered something that is not JSON');
    return value;
  }

  async #line(): Promise<Buffer> {
    for (;;) {
      const end = this.#held.indexOf(0x0a);
      if (end !== -1) {
        const line = this.#held.subarray(0, end);
        this.#held = this.#held.subarray(end + 1);
        return line;
      }
      if (this.#held.length > ANSWER_BYTES_MAX)
        throw new CollectiveError('local-io', 'The guest agent answers without end');
      await this.#more();
    }
  }

  async #more(): Promise<void> {
    const { done, value } = await this.#iterator.next();
    if (done === true)
      throw this.#socket.errored ?? new CollectiveError('local-io', 'The channel of the guest agent was closed');
    this.#held = Buffer.concat([this.#held, value]);
  }
}

const parse = (line: Buffer): unknown => {
  try {
    return JSON.parse(line.toString('utf8'));
  } catch {
    return undefined;
  }
};
