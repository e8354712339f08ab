/** The recordings of requests that are under way, one for a session. */
import { CollectiveError } from '@collective/shared';
import { systemClock } from './clock.js';
import { RequestRecording } from './request-recording.js';

/** At a time; each holds up to 2^20 requests in memory. */
const RECORDINGS_MAX = 4;

export class SessionRecordings {
  readonly #recordings = new Map<string, RequestRecording>();

  /** Undefined: it is not being recorded. */
  of(session: string): RequestRecording | undefined {
    return this.#recordings.get(session);
  }

  /** Errors: `exists`, `in-use` when there are too many. */
  start(session: string): RequestRecording {
    if (this.#recordings.has(session)) throw new CollectiveError('exists', `${session} is being recorded already`);
    if (this.#recordings.size >= RECORDINGS_MAX)
      throw new CollectiveError('in-use', `${RECORDINGS_MAX} sessions are being recorded already`);
    const recording = new RequestRecording(systemClock);
    this.#recordings.set(session, recording);
    return recording;
  }

  /** Forgets it; the caller stops it. Error: `not-found`. */
  take(session: string): RequestRecording {
    const recording = this.#recordings.get(session);
    if (recording === undefined) throw new CollectiveError('not-found', `${session} is not being recorded`);
    this.#recordings.delete(session);
    return recording;
  }
}
