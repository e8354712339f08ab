import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { expect, onTestFinished, test } from 'vitest';
import { findQemus } from './find-qemu.js';

/** Ends by itself when its standard input does. */
const standIn = async (word: string): Promise<number> => {
  const child = spawn(process.execPath, ['-e', 'process.stdin.resume()', '--', '-chardev', word], {
    stdio: ['pipe', 'ignore', 'ignore'],
  });
  onTestFinished(async () => {
    child.stdin.end();
    await once(child, 'exit');
  });
  await once(child, 'spawn');
  return child.pid ?? 0;
};

test('a QEMU without a record is found by its control socket, and no other process is taken for it', async () => {
  const folder = `/run/collective/${process.pid},x/m-1`;
  const word = (of: string): string => `socket,id=qmp,path=${of.replaceAll(',', ',,')}/q/qmp.sock,server=on,wait=off`;
  const pid = await standIn(word(folder));
  await standIn(word(`${folder}0`));
  await standIn(`grep ${word(folder)}`);
  expect((await findQemus(folder)).map((found) => found.pid)).toEqual([pid]);
});
