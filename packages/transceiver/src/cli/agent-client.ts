/**
 * The command line's end of the agent's local API: plain node:http over the unix socket, so that a `collective status`
 * loads nothing heavy. Starts the agent in the background when there is none.
 */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { createInterface } from 'node:readline';
import { CollectiveError, isErrorCode } from '@collective/shared/errors';
import { AGENT_API, AGENT_API_HEADER, AGENT_PATHS, type ErrorReply, type JobEvent } from '../agent/agent-types.js';

export class AgentClient {
  readonly #socketPath: string;

  constructor(socketPath: string) {
    this.#socketPath = socketPath;
  }

  /** Errors: those of the agent, `agent-unreachable`. */
  async get(path: string): Promise<unknown> {
    return readJson(await this.#send('GET', path, undefined));
  }

  async post(path: string, body: unknown = {}): Promise<unknown> {
    return readJson(await this.#send('POST', path, body));
  }

  /** Long work: every event but the last goes to `onEvent`; resolves with the result. Abort ends the work. */
  async job(
    path: string,
    body: unknown,
    options: { readonly onEvent: (event: JobEvent) => void; readonly signal?: AbortSignal },
  ): Promise<unknown> {
    const response = await this.#send('POST', path, body, options.signal);
    if (response.statusCode !== 200) return readJson(response);
    let last: JobEvent | undefined;
    try {
      for await (const line of createInterface({ input: response, crlfDelay: Infinity })) {
        const event = JSON.parse(line) as JobEvent;
        last = event;
        if (event.event === 'error') throw errorOf(event.error);
        if (event.event === 'result') return event.value;
        options.onEvent(event);
      }
    } catch (error) {
      // An interrupted request breaks off in several ways; why it did is in the signal.
      options.signal?.throwIfAborted();
      throw error instanceof CollectiveError ? error : agentEnded(last, error);
    }
    options.signal?.throwIfAborted();
    throw agentEnded(last);
  }

  async #send(method: string, path: string, body: unknown, signal?: AbortSignal): Promise<IncomingMessage> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const request = httpRequest(
        {
          socketPath: this.#socketPath,
          method,
          path,
          headers:
            text === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) },
          ...(signal === undefined ? {} : { signal }),
        },
        (response) => {
          const api = response.headers[AGENT_API_HEADER];
          // An agent of before there were numbers says none.
          if (api === undefined || api === String(AGENT_API) || path === AGENT_PATHS.leave) return resolve(response);
          response.resume();
          reject(
            new CollectiveError('other-software', `The agent speaks ${String(api)}, this command line ${AGENT_API}.`),
          );
        },
      );
      request.on('error', (error) => {
        reject(
          signal?.aborted === true
            ? (signal.reason as Error)
            : new CollectiveError(
                'agent-unreachable',
                `The agent at ${this.#socketPath} does not answer (${error.message}).`,
                { cause: error },
              ),
        );
      });
      request.end(text);
    });
  }
}

async function readJson(response: IncomingMessage): Promise<unknown> {
  const parts: Buffer[] = [];
  let value: unknown;
  try {
    for await (const part of response) parts.push(part as Buffer);
    value = JSON.parse(Buffer.concat(parts).toString('utf8'));
  } catch (error) {
    throw agentEnded(undefined, error);
  }
  if (response.statusCode === 200) return value;
  throw errorOf(value as ErrorReply);
}

/** It died, or was ended, in the middle of an answer. */
const agentEnded = (last: JobEvent | undefined, cause?: unknown): CollectiveError =>
  new CollectiveError(
    'agent-unreachable',
    `The agent ended${last?.event === 'progress' ? ` while: ${last.text.replace(/\.$/, '')}` : ' before it had answered'}.`,
    { cause },
  );

const errorOf = (reply: ErrorReply): CollectiveError =>
  new CollectiveError(
    isErrorCode(reply.code) ? reply.code : 'internal',
    reply.message,
    reply.data === undefined ? {} : { data: reply.data },
  );
