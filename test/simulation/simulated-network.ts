/**
 * The line to the repository and the repository, in place of undici's pools below HttpStore: every request gets an answer by the weather
 * of that moment, after a random time, in random pieces. What is wrong with an answer is chosen from `ANSWERS`; those that reach
 * the store whole are counted by the name under which the store has to count them (`met`).
 */
import { CollectiveError, type Digest } from '@collective/shared';
import type { ConnectionPool, FaultName, Repository } from '@collective/transceiver';
import type { Random } from './random.js';
import type { ProcessClock } from './simulated-clock.js';

/** What can be wrong with an answer, and the counter that has to count it. `good` and `late` are not wrong. */
export const ANSWERS = {
  good: undefined,
  /** Comes after its request has been given up and repeated, if at all. */
  late: undefined,
  refused: 'net-unreachable',
  'reset-before': 'net-unreachable',
  'reset-within': 'net-unreachable',
  silent: undefined, // counted when the store gives them up
  stall: undefined,
  trickle: undefined, // counted when the store gives it up
  endless: undefined,
  long: 'net-not-a-block',
  short: 'net-not-a-block',
  empty: 'net-not-a-block',
  portal: 'net-not-a-block',
  bomb: 'net-not-a-block',
  'other-length': 'net-not-a-block',
  'bit-flip': 'net-wrong-bytes',
  'other-block': 'net-wrong-bytes',
  stale: 'net-wrong-bytes',
  'status-302': 'net-odd-answer',
  'status-204': 'net-odd-answer',
  'status-401': 'net-token-refused',
  'status-403': 'net-not-allowed',
  'status-404': 'net-missing',
  'status-429': 'net-busy',
  'status-500': 'net-server-failed',
  'status-503': 'net-busy',
} as const satisfies Record<string, FaultName | undefined>;

export type Answer = keyof typeof ANSWERS;
export const ANSWER_NAMES: readonly Answer[] = Object.keys(ANSWERS).filter((name): name is Answer => name in ANSWERS);

/** How likely it is that an answer is wrong, and in which ways. */
export type Weather = { readonly wrong: number; readonly answers: readonly Answer[] };
export const FAIR: Weather = { wrong: 0, answers: ['good'] };

/** A chunk with everything that can be sent in its place. */
export type SimulatedChunk = {
  readonly chunk: Buffer;
  readonly bomb: Buffer;
  /** A right chunk of the beginning of the block. */
  readonly otherLength: Buffer;
};

type Handler = Parameters<ConnectionPool['dispatch']>[1];
type Controller = Parameters<NonNullable<Handler['onRequestStart']>>[0];

const PORTAL = Buffer.from('<!doctype html><html><body>Please log in to the Wi-Fi of this place.</body></html>');

export class SimulatedNetwork {
  weather: Weather = FAIR;
  /** The token that the server takes; others are refused. */
  token = 'token-0';
  /** Faults that reached the store, by the name of their counter. */
  readonly met = new Map<FaultName, number>();
  /** All that was sent, by kind. */
  readonly sent = new Map<Answer, number>();
  requests = 0;
  readonly #random: Random;
  readonly #chunks: ReadonlyMap<Digest, SimulatedChunk>;
  #lastDigest: Digest | undefined;
  readonly #inFlight = new Set<{ readonly clock: ProcessClock }>();

  constructor(random: Random, chunks: ReadonlyMap<Digest, SimulatedChunk>) {
    this.#random = random;
    this.#chunks = chunks;
  }

  /** Requests of processes that live. */
  get inFlight(): number {
    for (const request of this.#inFlight) if (request.clock.isDead) this.#inFlight.delete(request);
    return this.#inFlight.size;
  }

  /** The network as one process sees it: nothing reaches a dead one. */
  openPool(clock: ProcessClock): (repository: Repository, connections: number) => ConnectionPool {
    return () => {
      const live = new Set<(error: Error) => void>();
      return {
        dispatch: ({ path, headers }, handler) => {
          const authorization: unknown = Reflect.get(headers ?? {}, 'authorization');
          this.#dispatch(clock, live, { path, isAllowed: authorization === `Bearer ${this.token}` }, handler);
          return true;
        },
        destroy: () => {
          for (const fail of [...live]) fail(new Error('the pool is destroyed'));
          return Promise.resolve();
        },
      };
    };
  }

  #dispatch(
    clock: ProcessClock,
    live: Set<(error: Error) => void>,
    { path, isAllowed }: { readonly path: string; readonly isAllowed: boolean },
    handler: Handler,
  ): void {
    const random = this.#random;
    this.requests += 1;
    const request = { clock };
    this.#inFlight.add(request);
    const digest = path.slice(path.lastIndexOf('/') + 1) as Digest;
    const isWrong = random.chance(this.weather.wrong);
    const planned = isWrong ? random.pick(this.weather.answers) : 'good';
    const answer: Answer = planned === 'good' && !isAllowed ? 'status-401' : planned;
    this.sent.set(answer, (this.sent.get(answer) ?? 0) + 1);
    let isOver = false;
    let reason: Error | null = null;
    const end = (): boolean => {
      if (isOver) return false;
      isOver = true;
      live.delete(fail);
      this.#inFlight.delete(request);
      return true;
    };
    const fail = (error: Error): void => {
      if (end()) handler.onResponseError?.(controller, error);
    };
    const controller: Controller = {
      get aborted() {
        return reason !== null;
      },
      paused: false,
      get reason() {
        return reason;
      },
      abort: (error) => {
        if (reason !== null) return;
        reason = error;
        // What the store itself gave up because of what it saw.
        const fault = error instanceof CollectiveError ? error.data['fault'] : undefined;
        if (fault === 'net-silent' || fault === 'net-slow' || fault === 'net-too-long') this.#note(fault);
        fail(error);
      },
      pause: () => undefined,
      resume: () => undefined,
    };
    live.add(fail);
    const step = (durationMs: number, what: () => void): void => {
      clock.after(durationMs, () => {
        if (!isOver) what();
      });
    };
    const latencyMs = 1 + random.int(random.chance(0.1) ? 900 : 60);
    const reset = (): void => {
      if (!isOver) this.#note('net-unreachable');
      fail(new Error('socket hang up'));
    };
    const sendHead = (status: number, headers: Record<string, string> = {}): void =>
      handler.onResponseStart?.(controller, status, headers, '');
    /** Sends the bytes in random pieces, then does the last thing. */
    const sendBody = (bytes: Buffer, then: () => void, gapMs = 20): void => {
      let at = 0;
      const next = (): void => {
        if (at >= bytes.length) return then();
        const pieceBytes = random.chance(0.5) ? bytes.length - at : random.between(1, bytes.length - at);
        const piece = Buffer.from(bytes.subarray(at, at + pieceBytes));
        at += pieceBytes;
        handler.onResponseData?.(controller, piece);
        if (random.chance(0.3)) step(random.int(gapMs), next);
        else if (!isOver) next();
      };
      next();
    };
    const finish = (): void => {
      if (!end()) return;
      const fault = ANSWERS[answer];
      if (fault !== undefined) this.#note(fault);
      handler.onResponseEnd?.(controller, {});
    };
    const answerWith = (bytes: Buffer, status = 200, headers: Record<string, string> = {}): void => {
      sendHead(status, headers);
      if (!isOver) sendBody(bytes, finish);
    };

    step(0, () => handler.onRequestStart?.(controller, {}));
    const chunk = this.#chunks.get(digest);
    if (chunk === undefined) throw new Error(`a block was asked for that nobody has: ${path}`);
    const last = this.#lastDigest;
    this.#lastDigest = digest;
    step(latencyMs, () => {
      const good = chunk.chunk;
      switch (answer) {
        case 'good':
          return answerWith(good);
        case 'late':
          return step(random.int(6_000), () => answerWith(good));
        case 'refused':
        case 'reset-before':
          return reset();
        case 'reset-within':
          sendHead(200);
          return sendBody(good.subarray(0, random.int(good.length)), reset);
        case 'silent':
          return;
        case 'stall':
          sendHead(200);
          return sendBody(good.subarray(0, random.int(good.length)), () => undefined);
        case 'trickle': {
          sendHead(200);
          const next = (at: number): void => {
            if (at >= good.length) return finish();
            handler.onResponseData?.(controller, Buffer.from(good.subarray(at, at + 1)));
            step(1_000 + random.int(900), () => next(at + 1));
          };
          return next(0);
        }
        case 'endless': {
          sendHead(200);
          const next = (): void => {
            handler.onResponseData?.(controller, Buffer.alloc(16_384, 1));
            step(random.int(20), next);
          };
          return next();
        }
        case 'long':
          return answerWith(Buffer.concat([good, Buffer.alloc(1 + random.int(8))]));
        case 'short':
          return answerWith(good.subarray(0, random.int(good.length)));
        case 'empty':
          return answerWith(Buffer.alloc(0));
        case 'portal':
          return answerWith(PORTAL);
        case 'bomb':
          return answerWith(chunk.bomb);
        case 'other-length':
          return answerWith(chunk.otherLength);
        case 'bit-flip': {
          const wrong = Buffer.from(good);
          // Behind the header: what is wrong with the header is "not a block".
          const at = 16 + random.int(wrong.length - 16);
          wrong[at] = (wrong[at] ?? 0) ^ (1 << random.int(8));
          return answerWith(wrong);
        }
        case 'other-block':
          return answerWith(this.#other(good, random.pick([...this.#chunks.values()]).chunk));
        case 'stale':
          return answerWith(this.#other(good, (last === undefined ? undefined : this.#chunks.get(last))?.chunk));
        case 'status-302':
          return answerWith(PORTAL, 302, { location: 'https://wifi.example/login' });
        case 'status-204':
          return answerWith(Buffer.alloc(0), 204);
        case 'status-401':
        case 'status-403':
        case 'status-404':
        case 'status-500':
          return answerWith(Buffer.from('{"code":"internal"}'), Number(answer.slice(-3)));
        case 'status-429':
        case 'status-503':
          return answerWith(
            Buffer.alloc(random.int(100)),
            Number(answer.slice(-3)),
            random.chance(0.5) ? { 'retry-after': random.pick(['0', '1', '5', '-3', 'tomorrow', '99999']) } : {},
          );
        default:
          answer satisfies never;
      }
    });
  }

  /** A right chunk of another block of the same length; bytes of nobody's when there is none. */
  #other(good: Buffer, other: Buffer | undefined): Buffer {
    if (other !== undefined && other !== good && other.readUInt32LE(12) === good.readUInt32LE(12)) return other;
    const wrong = Buffer.from(good);
    wrong[wrong.length - 1] = (wrong[wrong.length - 1] ?? 0) ^ 0x80;
    return wrong;
  }

  #note(fault: FaultName): void {
    this.met.set(fault, (this.met.get(fault) ?? 0) + 1);
  }
}
