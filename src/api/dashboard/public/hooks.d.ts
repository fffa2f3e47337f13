/** Types of /dashboard/hooks.js: the API serves the module of preact/hooks beside these files. */
export * from 'preact/hooks'
