# Ask an edge how it is, from another one: address and name in the arguments. Ends with 0 when it answers 200, else 1.
use strict;
use warnings;
use IO::Socket::INET;
$SIG{ALRM} = sub { exit 1 };
alarm 1;
my ($address, $name) = @ARGV;
my $link = IO::Socket::INET->new(PeerAddr => $address, PeerPort => 80, Proto => 'tcp', Timeout => 1) or exit 1;
print $link "GET /edge HTTP/1.0\r\nHost: $name\r\n\r\n";
my $first = <$link>;
exit(defined $first && $first =~ m{^HTTP/1\.[01] 200 } ? 0 : 1);
