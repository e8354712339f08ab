/**
 * Newline-delimited JSON over a socket, both ways: QMP, the guest agent, the supervisor's and blockd's control sockets. A
 * line has a longest length, because the other side may be hostile; what follows a line that is too long or no JSON is
 * not read any more: the socket is destroyed with the error.
 */
import type { Socket } from 'node:net';
import { CollectiveError } from '@collective/shared';

export type JsonLinesOptions = {
  /** Longest line in bytes, without the newline. */
  readonly lineBytesMax: number;
  readonly onValue: (value: unknown) => void;
};

/**
 * Calls `onValue` for each line, in order, and never after the socket is destroyed. Empty lines are skipped. What comes back
 * ends the reading, for a connection that goes on as something else: the socket is paused then, and holds every byte after
 * the last line, also when it is called from `onValue`.
 */
export function readJsonLines(socket: Socket, { lineBytesMax, onValue }: JsonLinesOptions): () => void {
  let stopped = false;
  let parts: Buffer[] = [];
  let partsBytes = 0;
  const takeLine = (line: Buffer): void => {
    if (line.length === 0 || (line.length === 1 && line[0] === 0x0d)) return;
    let value: unknown;
    try {
      value = JSON.parse(line.toString('utf8'));
    } catch (error) {
      socket.destroy(new CollectiveError('malformed', `A line of ${line.length} bytes is not JSON`, { cause: error }));
      return;
    }
    onValue(value);
  };
  const onData = (data: Buffer): void => {
    let rest = data;
    for (;;) {
      const end = rest.indexOf(0x0a);
      const piece = end === -1 ? rest : rest.subarray(0, end);
      partsBytes += piece.length;
      if (partsBytes > lineBytesMax) {
        socket.destroy(new CollectiveError('too-large', `A line is longer than ${lineBytesMax} bytes`));
        return;
      }
      parts.push(piece);
      if (end === -1) return;
      const line = parts.length === 1 ? piece : Buffer.concat(parts);
      parts = [];
      partsBytes = 0;
      takeLine(line);
      if (socket.destroyed) return;
      rest = rest.subarray(end + 1);
      if (stopped) {
        if (rest.length > 0) socket.unshift(rest);
        return;
      }
    }
  };
  socket.on('data', onData);
  return () => {
    if (stopped) return;
    stopped = true;
    socket.off('data', onData);
    socket.pause();
    if (parts.length > 0) socket.unshift(Buffer.concat(parts));
    parts = [];
  };
}

export const writeJsonLine = (socket: Socket, value: unknown): boolean => socket.write(`${JSON.stringify(value)}\n`);
