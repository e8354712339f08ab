// House rules that a machine can hold: import direction between the packages, no escape hatches from the types.
import tseslint from 'typescript-eslint';

/** Which of our packages a folder may not import (docs/ARCHITECTURE.md). */
const forbid = (...packages) => ({
  'no-restricted-imports': [
    'error',
    {
      patterns: packages.map((name) => ({
        group: [name, `${name}/*`],
        message: 'Import direction: see docs/ARCHITECTURE.md.',
      })),
    },
  ],
});

export default tseslint.config(
  { ignores: ['**/dist/**', '**/node_modules/**', 'build/**', '**/golden/**'] },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    rules: {
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/no-explicit-any': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      'no-restricted-syntax': [
        'error',
        { selector: 'TSEnumDeclaration', message: 'A literal union instead of an enum.' },
        { selector: 'TSModuleDeclaration[kind="namespace"]', message: 'Modules instead of namespaces.' },
        { selector: 'ExportDefaultDeclaration', message: 'Named exports only.' },
      ],
      eqeqeq: 'error',
    },
  },
  { files: ['**/*.config.ts', '**/*.config.js', '**/*.mjs'], rules: { 'no-restricted-syntax': 'off' } },
  { files: ['**/*.cts'], rules: { '@typescript-eslint/no-require-imports': 'off' } },
  { files: ['packages/shared/**/*.ts'], rules: forbid('@collective/repository-server', '@collective/transceiver') },
  { files: ['packages/repository-server/**/*.ts'], rules: forbid('@collective/transceiver') },
  { files: ['packages/transceiver/**/*.ts'], rules: forbid('@collective/repository-server') },
);
