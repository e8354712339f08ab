/**
 * collective console NAME: the serial console on this terminal, raw, until Ctrl-]. Without a terminal it copies stdin to
 * the console and the console to stdout until either ends.
 */
import { connect } from 'node:net';
import { CollectiveError } from '@collective/shared/errors';
import { AGENT_PATHS } from '../../agent/agent-types.js';
import { findAgent } from '../agent-process.js';
import { note, type GlobalOptions } from '../output.js';

const ESCAPE = 0x1d; // Ctrl-]

export async function attachConsole(name: string, options: GlobalOptions): Promise<void> {
  const { client } = await findAgent(options);
  const { socket: path } = (await client.get(`${AGENT_PATHS.console}?name=${encodeURIComponent(name)}`)) as { readonly socket: string };
  const { stdin, stdout } = process;
  const isTerminal = stdin.isTTY;
  const socket = connect(path);
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', (error) => reject(new CollectiveError('not-found', `The console of ${name} cannot be opened: ${error.message}`)));
  });
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
  });
  if (isTerminal) stdin.setRawMode(false);
  stdin.pause();
  note(`\nLeft the console of ${name}.`);
}
