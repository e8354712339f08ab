// Writes docs/errors.md from the error table. Run after a build: node packages/shared/scripts/write-errors-document.mjs
import { writeFileSync } from 'node:fs';
import { errorsDocument } from '../dist/errors-document.js';

writeFileSync(new URL('../../../docs/errors.md', import.meta.url), errorsDocument());
