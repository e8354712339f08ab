/**
 * A listening socket that the parent process has handed over. It accepts from the moment it arrives, and a client may have been
 * waiting in its backlog (QEMU, after this process died and was started again), while the disk it belongs to is still being opened. So the
 * connections that come before the NBD server are kept for it: accepted by nobody they would be open and never answered.
 */
import type net from 'node:net';

/** Prepares the server as `nbdListener` makes them; Node makes a plain one of what comes over the channel. */
export const keepEarlyConnections = (server: net.Server): void => {
  Reflect.set(server, 'pauseOnConnect', true);
  Reflect.set(server, 'allowHalfOpen', true);
  const early: net.Socket[] = [];
  const keep = (socket: net.Socket): void => void early.push(socket);
  server.on('connection', keep);
  const onNewListener = (event: string): void => {
    if (event !== 'connection') return;
    server.off('newListener', onNewListener);
    server.off('connection', keep);
    // The listener is there only after this event.
    process.nextTick(() => {
      for (const socket of early) server.emit('connection', socket);
    });
  };
  server.on('newListener', onNewListener);
  server.once('close', () => {
    if (server.listenerCount('connection', keep) > 0) for (const socket of early) socket.destroy();
  });
};
