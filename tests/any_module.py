"""hwsigner's functions for keys and tokens, allowed to load modules that tests compile in temporary folders."""

from functools import partial

from hwsigner import key
from hwsigner.key import listing, management

open_key = partial(key.open_key, allow_modules=True)
find_certificates = partial(key.find_certificates, allow_modules=True)
list_tokens = partial(listing.list_tokens, allow_modules=True)

generate_key = partial(management.generate_key, allow_modules=True)
describe_key = partial(management.describe_key, allow_modules=True)
install_certificate = partial(management.install_certificate, allow_modules=True)
delete_key = partial(management.delete_key, allow_modules=True)
