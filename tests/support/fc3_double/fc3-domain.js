// `s deploy` always loads a component called fc3-domain, even where s.yaml has no custom domain.
'use strict';

module.exports = class Fc3Domain {};
