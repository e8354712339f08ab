// Writes the golden files that do not exist yet; one that exists is never touched, because it stays for ever.
// Run after a build: node packages/shared/scripts/write-golden.mjs
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GOLDEN_EXAMPLES } from '../dist/testing/golden-examples.js';

for (const example of GOLDEN_EXAMPLES) {
  const path = fileURLToPath(new URL(`../golden/${example.path}`, import.meta.url));
  if (existsSync(path)) continue;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, example.write());
  console.log(`wrote ${example.path}`);
}
