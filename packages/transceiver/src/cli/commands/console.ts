/**
 * collective console NAME: the serial console on this terminal, raw, until Ctrl-]. Without a terminal it copies stdin to
 * the console and the console to stdout until the machine ends or Ctrl-C.
 */
import { connect, type Socket } from 'node:net';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { note, type GlobalOptions } from '../output.js';

const ESCAPE = 0x1d; // Ctrl-]

/** Asks the supervisor for the machine's serial port (supervisor/supervisor-protocol.ts): afterwards the connection is it. */
async function openConsole(path: string, machine: string): Promise<Socket> {
  const socket = connect(path);
  return new Promise((resolve, reject) => {
    let reply = Buffer.alloc(0);
    const fail = (why: string): void =>
      reject(new CollectiveError('not-found', `The console of ${machine} cannot be opened: ${why}`));
    const onError = (error: Error): void => fail(error.message);
    const onClose = (): void => fail('the supervisor closed the connection');
    const onData = (bytes: Buffer): void => {
      reply = Buffer.concat([reply, bytes]);
      const end = reply.indexOf(0x0a);
      if (end === -1) return;
      socket.off('data', onData);
      socket.off('error', onError);
      socket.off('close', onClose);
      socket.pause();
      const answer = JSON.parse(reply.toString('utf8', 0, end)) as { readonly error?: { readonly message: string } };
      if (answer.error !== undefined) {
        socket.destroy();
        fail(answer.error.message);
        return;
      }
      if (end + 1 < reply.length) socket.unshift(reply.subarray(end + 1));
      resolve(socket);
    };
    socket.on('error', onError);
    socket.on('close', onClose);
    socket.on('data', onData);
    socket.write(`${JSON.stringify({ id: 1, method: 'console', params: { machine } })}\n`);
  });
}

export async function attachConsole(name: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const { socket: path } = (await client.get(`${AGENT_PATHS.console}?name=${encodeURIComponent(name)}`)) as {
    readonly socket: string;
  };
  const { stdin, stdout } = process;
  const isTerminal = stdin.isTTY;
  const socket = await openConsole(path, name);
  if (isTerminal) {
    note(`Console of ${name}. Leave it with Ctrl-].`);
    stdin.setRawMode(true);
  }
  await new Promise<void>((resolve) => {
    const end = (): void => {
      socket.destroy();
      resolve();
    };
    socket.on('data', (bytes) => stdout.write(bytes));
    socket.on('close', resolve);
    socket.on('error', resolve);
    stdin.on('data', (bytes: Buffer) => {
      const escape = isTerminal ? bytes.indexOf(ESCAPE) : -1;
      if (escape === -1) {
        socket.write(bytes);
        return;
      }
      socket.write(bytes.subarray(0, escape));
      end();
    });
    stdin.resume();
    socket.resume();
  });
  if (isTerminal) stdin.setRawMode(false);
  stdin.pause();
  note(`\nLeft the console of ${name}.`);
}
