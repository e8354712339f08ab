import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

/**
 * What is promised within a time is measured with the machine to itself, one file after the other, and so are the long rows of kills, whose
 * guests take more than a core. The other integration tests run two at a time.
 */
const ALONE = [
  'test/outages/**/*.integ.ts',
  'test/end-to-end/**/*.integ.ts',
  'test/kills/**/*.integ.ts',
  'test/machine/machine-faults.integ.ts',
  'test/machine/suspend.integ.ts',
];
const INTEG = { testTimeout: 600_000, hookTimeout: 600_000, expect: { poll: { timeout: 120_000 } } };

const source = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

// Unit tests and simulations run on the sources; integration tests start the built programs (`npm run build` first, also for the bundle of packages/schema).
export default defineConfig({
  resolve: {
    alias: {
      '@collective/shared/errors': source('packages/shared/src/errors.ts'),
      '@collective/shared': source('packages/shared/src/index.ts'),
      '@collective/repository-server': source('packages/repository-server/src/index.ts'),
      '@collective/transceiver': source('packages/transceiver/src/index.ts'),
    },
  },
  test: {
    // A hang ends by these; on a machine that others use, or that stood still for a while, nothing else does.
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // Half of them by itself: 1 on a machine with 2 cores.
    maxWorkers: '100%',
    expect: { poll: { timeout: 20_000 } },
    setupFiles: [source('test/support/property-seed.ts')],
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['packages/*/src/**/*.test.ts', 'test/**/*.test.ts'],
          // A file gets the modules that the one before it has loaded: with modules of its own, loading them was half of the run. So a test
          // gives back what it changes of its process (timers, the environment).
          isolate: false,
          exclude: ['**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          name: 'simulation',
          include: ['test/simulation/**/*.sim.ts'],
          exclude: ['**/dist/**', '**/node_modules/**'],
        },
      },
      {
        extends: true,
        test: {
          ...INTEG,
          name: 'integ',
          include: ['test/**/*.integ.ts'],
          exclude: ['**/dist/**', '**/node_modules/**', ...ALONE],
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          ...INTEG,
          name: 'alone',
          include: ALONE,
          exclude: ['**/dist/**', '**/node_modules/**'],
          fileParallelism: false,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
