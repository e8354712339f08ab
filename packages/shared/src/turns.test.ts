import { expect, test } from 'vitest';
import { Turns } from './turns.js';

test('the work for one key is done one after the other, also after one that failed; that for another does not wait', async () => {
  const turns = new Turns();
  const done: string[] = [];
  let release = (): void => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  const attaching = turns.take('one/system', async () => {
    await held;
    done.push('attach');
    throw new Error('no such image');
  });
  const detaching = turns.take('one/system', () => Promise.resolve(done.push('detach')));
  await turns.take('one/user', () => Promise.resolve(done.push('other')));
  expect(done).toEqual(['other']);
  expect(turns.underWay).toEqual(['one/system']);
  release();
  await expect(attaching).rejects.toThrow('no such image');
  expect(await detaching).toBe(3);
  expect(done).toEqual(['other', 'attach', 'detach']);
  expect(turns.underWay).toEqual([]);
});
