// Stands where the fc3 component would be: `s` loads it, runs its deploy, and the test reads what it was given.
'use strict';

const fs = require('fs');

module.exports = class Stub {
  async deploy(inputs) {
    const credential = await inputs.getCredential();
    const seen = { props: inputs.props, args: inputs.args, credential };
    console.log(inputs.props.environmentVariables); // fc3 prints them, too
    fs.writeFileSync(process.env.STUB_WROTE, JSON.stringify(seen));
    return { url: { system_url: 'https://stub.invalid' } };
  }
};
