// The layers of DESIGN section 3, checked by `npm test`: who may import whom inside src/. Types count as imports.
// Files directly in src/ are entry points and what belongs to them: they may import everything below.

/** A folder of src/ → what else of src/ it may import. */
const layers = {
  domain: [],
  db: ['domain', 'errors.ts'],
  scoring: ['storage', 'outgoing', 'domain', 'errors.ts'],
  storage: ['domain', 'errors.ts'],
  outgoing: ['domain', 'errors.ts'],
  services: ['db', 'scoring', 'storage', 'outgoing', 'domain', 'errors.ts'],
  http: ['services', 'domain', 'errors.ts'],
  jobs: ['services', 'domain', 'errors.ts'],
  runner: ['services', 'domain', 'errors.ts'],
  doctor: ['runner', 'services', 'db', 'scoring', 'storage', 'domain', 'config.ts', 'secret-key.ts'],
};

const layerRules = Object.entries(layers).map(([layer, others]) => ({
  name: `layer-${layer}`,
  comment: `src/${layer} imports only: ${[layer, ...others].join(', ')}`,
  severity: 'error',
  from: { path: `^src/${layer}/` },
  to: {
    path: '^(src|test|examples|bench)/',
    pathNot: [layer, ...others].map((name) => (name.endsWith('.ts') ? `^src/${name}$` : `^src/${name}/`)),
  },
}));

module.exports = {
  forbidden: [
    ...layerRules,
    {
      name: 'known-layers-only',
      comment: 'A new folder of src/ needs a line in the table above',
      severity: 'error',
      from: { path: '^src/', pathNot: `^src/([^/]+$|bootstrap/|(${Object.keys(layers).join('|')})/)` },
      to: {},
    },
    {
      name: 'bootstrap-needs-nothing',
      comment: 'bootstrap runs before any package is installed',
      severity: 'error',
      from: { path: '^src/bootstrap' },
      to: { pathNot: '^src/bootstrap/', dependencyTypesNot: ['core'] },
    },
    {
      name: 'domain-is-pure',
      comment: 'domain computes: it reads no file, no network, no clock of the system, and starts nothing',
      severity: 'error',
      from: { path: '^src/domain/' },
      to: { dependencyTypes: ['core'], pathNot: '^(node:)?(crypto|assert)$' },
    },
    {
      name: 'program-knows-no-tests',
      comment: 'src/ imports nothing of test/, examples/ or bench/: the hidden scorer of the demo never reaches training',
      severity: 'error',
      from: { path: '^src/' },
      to: { path: '^(test|examples|bench)/' },
    },
    {
      name: 'no-development-packages',
      comment: 'src/ runs where only `dependencies` are installed',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['type-only'] },
    },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only'] } } },
    { name: 'no-unresolved', severity: 'error', from: {}, to: { couldNotResolve: true } },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { extensions: ['.ts', '.mjs', '.cjs', '.js', '.json'], conditionNames: ['import', 'node', 'default', 'types'], exportsFields: ['exports'] },
  },
};
