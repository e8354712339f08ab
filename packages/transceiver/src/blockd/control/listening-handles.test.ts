import net from 'node:net';
import { expect, onTestFinished, test, vi } from 'vitest';
import { ListeningHandles } from './listening-handles.js';

test('a request and its socket wait for each other', async () => {
  const handles = new ListeningHandles();
  const [early, late] = [new net.Server(), new net.Server()];
  handles.give('early', early);
  expect(await handles.take('early')).toBe(early);
  const taking = handles.take('late');
  handles.give('late', late);
  expect(await taking).toBe(late);
});

test('when its sender has died, a request does not wait for a socket that will not come; one that came is taken', async () => {
  const handles = new ListeningHandles();
  const here = new net.Server();
  handles.give('here', here);
  const taking = handles.take('missing');
  handles.senderIsGone();
  await expect(taking).rejects.toMatchObject({ code: 'not-found' });
  await expect(handles.take('later')).rejects.toMatchObject({ code: 'not-found' });
  expect(await handles.take('here')).toBe(here);
});

test('a socket that comes when its request has given up waiting is closed: kept, it would accept clients and never answer them', async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const handles = new ListeningHandles();
  const late = new net.Server();
  const close = vi.spyOn(late, 'close');
  const taking = expect(handles.take('late')).rejects.toMatchObject({ code: 'not-found' });
  await vi.advanceTimersByTimeAsync(60_000);
  await taking;
  handles.give('late', late);
  expect(close).toHaveBeenCalled();
});
