/** The machine port over the supervisor's control socket. */
import { CollectiveError } from '@collective/shared';
import type { Home } from './home.js';
import type { MachinePort } from './machine-port.js';

export async function openSupervisedMachines(home: Home): Promise<MachinePort> {
  const away = async (): Promise<never> => {
    throw new CollectiveError('missing-program', `The supervisor at ${home.supervisorSocket} is not running.`);
  };
  return {
    status: async () => ({ supervisor: { running: false }, blockd: { running: false }, machines: [] }),
    start: away,
    stop: away,
    consoleSocket: away,
    waitForConsole: away,
    export: away,
    bootTest: away,
    shutdown: async () => undefined,
    close: async () => undefined,
  };
}
