/** Types of /dashboard/uplot.js: the API serves the module of the uplot package beside these files. */
export { default } from 'uplot'
