/**
 * Which software this is: the version of the installation that the running code was loaded from. Agent, supervisor and block daemon say
 * it, so that an update replaces those that are of another one (docs/adr/0013).
 */
import { readFileSync } from 'node:fs';

const versionOf = (text: string): string => {
  const value: unknown = JSON.parse(text);
  const version: unknown = typeof value === 'object' && value !== null ? Reflect.get(value, 'version') : undefined;
  return typeof version === 'string' ? version : 'unknown';
};

/** `collective 0.1.0`. Read once: what is installed in its place later is another software. */
export const SOFTWARE = `collective ${versionOf(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))}`;
